import keras
import pytest
from graph_macs import count_macs
from predictor_parts import predictor_of

from laser_dist.models.autoencoder import build_autoencoder, decoder_of, encoder_of
from laser_dist.models.complexity import Cost, decoder_cost, encoder_cost, predictor_cost
from laser_dist.models.heads import build_head
from laser_dist.models.specs import BackboneSpec, HeadSpec
from laser_dist.models.variants import LAT, MJ_LAT, MJ_REC, REC, VARIANTS

pytestmark = pytest.mark.slow

TINY = BackboneSpec(filters=4, latent_filters=6, height=32, width=32)
# Positions of the output × kernel × channels in × out.
TINY_ENCODER = 16 * 16 * 25 * 3 * 4 + 8 * 8 * 25 * 4 * 4 + 4 * 4 * 25 * 4 * 4 + 2 * 2 * 25 * 4 * 6
# Positions of the input × kernel × channels in × out.
TINY_DECODER = 2 * 2 * 25 * 6 * 4 + 4 * 4 * 25 * 4 * 4 + 8 * 8 * 25 * 4 * 4 + 16 * 16 * 25 * 4 * 3

HEADS = {
    "published form": None,
    "attention": HeadSpec(filters=(4, 8, 9), attention_ratio=2, dense=(5,)),
    "average": HeadSpec(filters=(4, 8), pooling="average", pool_every=1, dense=()),
    "shared": HeadSpec(filters=(4,), attention_ratio=None, dense=(5, 3), shared_dense=True),
    "spread": HeadSpec(filters=(4, 8), ordered=True, spread=True, knee=1.0, dense=(5,)),
}


def built_cost(model):
    """Return the cost that Keras counts for a built model."""
    trainable = sum(keras.ops.size(weight) for weight in model.trainable_weights)
    return Cost(model.count_params(), int(trainable), count_macs(model))


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_predictor_cost_equals_that_of_the_built_model(variant, head):
    head = head or variant.published_head
    autoencoders = [build_autoencoder(TINY, name) for name in variant.required_backbones()]
    shape = variant.feature_shape(TINY)
    predictor = predictor_of(
        variant, autoencoders, build_head(head, shape, levels=variant.num_levels)
    )
    assert predictor_cost(variant, TINY, head) == built_cost(predictor)


def test_backbone_cost_equals_a_hand_count_and_the_built_model():
    autoencoder = build_autoencoder(TINY, "jnd1")
    assert encoder_cost(TINY).macs == TINY_ENCODER
    assert decoder_cost(TINY).macs == TINY_DECODER
    assert encoder_cost(TINY) == built_cost(encoder_of(autoencoder))
    assert decoder_cost(TINY) == built_cost(decoder_of(autoencoder))


def test_predictor_cost_equals_a_hand_count():
    spec = HeadSpec(filters=(4, 8), attention_ratio=2, dense=(5,))
    # Latent 2×2×6; attention runs its two dense layers, n·n/2 each, twice; pooled to 1×1×8.
    branch = 2 * 2 * 9 * 6 * 4 + 2 * (4 * 2 + 2 * 4)
    trunk = 2 * 2 * 9 * 4 * 8 + 2 * (8 * 4 + 4 * 8)
    level = 8 * 5 + 5
    assert predictor_cost(LAT, TINY, spec).macs == TINY_ENCODER + branch + trunk + level
    expected = 3 * (TINY_ENCODER + branch) + trunk + 3 * level
    assert predictor_cost(MJ_LAT, TINY, spec).macs == expected


@pytest.mark.parametrize(
    ("variant", "published_gmac"),
    [(LAT, 8.8), (REC, 90.6), (MJ_LAT, 25.6), (MJ_REC, 130.0)],
    ids=lambda value: getattr(value, "name", None),
)
def test_published_models_cost_the_published_gmac(variant, published_gmac):
    cost = predictor_cost(variant, BackboneSpec(), variant.published_head)
    assert round(cost.macs / 1e9, 1) == published_gmac
