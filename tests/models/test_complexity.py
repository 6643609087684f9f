import keras
import pytest
from predictor_parts import predictor_of

from laser_dist.models.autoencoder import build_autoencoder, decoder_of, encoder_of
from laser_dist.models.complexity import count_macs
from laser_dist.models.heads import build_head
from laser_dist.models.predictors import build_joint_model
from laser_dist.models.specs import BackboneSpec, HeadSpec
from laser_dist.models.variants import E2E_LAT, LAT, MJ_LAT, MJ_REC, REC

TINY = BackboneSpec(filters=4, latent_filters=6, height=32, width=32)
# Positions of the result × kernel × channels in × out.
TINY_ENCODER = 16 * 16 * 25 * 3 * 4 + 8 * 8 * 25 * 4 * 4 + 4 * 4 * 25 * 4 * 4 + 2 * 2 * 25 * 4 * 6
# Positions of what comes in × kernel × channels in × out.
TINY_DECODER = 2 * 2 * 25 * 6 * 4 + 4 * 4 * 25 * 4 * 4 + 8 * 8 * 25 * 4 * 4 + 16 * 16 * 25 * 4 * 3


def parts(variant, spec, head_spec):
    autoencoders = [build_autoencoder(spec, name) for name in variant.required_backbones()]
    return autoencoders, build_head(
        head_spec, variant.feature_shape(spec), levels=variant.num_levels
    )


def test_backbone_equals_a_hand_count():
    autoencoder = build_autoencoder(TINY, "jnd1")
    assert count_macs(encoder_of(autoencoder)) == TINY_ENCODER
    assert count_macs(decoder_of(autoencoder)) == TINY_DECODER
    assert count_macs(autoencoder) == TINY_ENCODER + TINY_DECODER


def test_predictors_equal_a_hand_count():
    spec = HeadSpec(filters=(4, 8), attention_ratio=2, dense=(5,))
    # Latent 2×2×6; attention runs its two dense layers, n·n/2 each, twice; pooled to 1×1×8.
    branch = 2 * 2 * 9 * 6 * 4 + 2 * (4 * 2 + 2 * 4)
    trunk = 2 * 2 * 9 * 4 * 8 + 2 * (8 * 4 + 4 * 8)
    level = 8 * 5 + 5
    single = predictor_of(LAT, *parts(LAT, TINY, spec))
    assert count_macs(single) == TINY_ENCODER + branch + trunk + level
    multi = predictor_of(MJ_LAT, *parts(MJ_LAT, TINY, spec))
    assert count_macs(multi) == 3 * (TINY_ENCODER + branch) + trunk + 3 * level


def test_a_layer_called_twice_counts_twice_and_one_not_in_the_graph_not_at_all():
    dense = keras.layers.Dense(7)
    x = keras.Input((7,))
    once = keras.Model(x, dense(x))
    twice = keras.Model(x, dense(dense(x)))
    assert (count_macs(once), count_macs(twice)) == (49, 98)
    y = keras.Input((7,))
    assert count_macs(keras.Model(y, twice(once(y)))) == 147


@pytest.mark.parametrize(
    ("variant", "published_gmac"),
    [(LAT, 8.8), (REC, 90.6), (MJ_LAT, 25.6), (MJ_REC, 130.0)],
    ids=lambda value: getattr(value, "name", None),
)
def test_paper_models_cost_what_the_table_says_to_a_tenth_of_a_gmac(variant, published_gmac):
    predictor = predictor_of(variant, *parts(variant, BackboneSpec(), variant.published_head))
    assert round(count_macs(predictor) / 1e9, 1) == published_gmac


def test_end_to_end_training_adds_the_decoder_and_prediction_does_not():
    [autoencoder], head = parts(E2E_LAT, BackboneSpec(), E2E_LAT.published_head)
    joint = count_macs(build_joint_model(E2E_LAT, autoencoder, head))
    predictor = count_macs(predictor_of(E2E_LAT, [autoencoder], head))
    assert (round(joint / 1e9, 1), round(predictor / 1e9, 1)) == (17.1, 8.8)
    assert joint - predictor == count_macs(decoder_of(autoencoder))
