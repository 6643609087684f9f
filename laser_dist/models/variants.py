"""The six published predictors, as combinations of a feature space, levels and training.

Plain data without Keras, so the needs of a variant are known before Keras is imported.
"""

from dataclasses import dataclass
from typing import Literal

from laser_dist.errors import UserError, nearest
from laser_dist.models.specs import LATENT_HEAD, RECONSTRUCTION_HEAD, BackboneSpec, HeadSpec


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The composition of one predictor.

    Attributes:
      name: name on the command line.
      space: input of the head: the backbone's latent or its reconstructed frame.
      num_levels: levels predicted at once, and number of backbones.
      end_to_end: whether the backbone is trained with the head; otherwise it is frozen.
    """

    name: str
    space: Literal["latent", "reconstructed"]
    num_levels: Literal[1, 3]
    end_to_end: bool

    @property
    def published_head(self) -> HeadSpec:
        """The published head for this feature space, with a linear output."""
        return LATENT_HEAD if self.space == "latent" else RECONSTRUCTION_HEAD

    def feature_shape(self, spec: BackboneSpec) -> tuple[int, int, int]:
        """Return the shape (h, w, c) of the features of one backbone of size `spec`."""
        return spec.latent_shape if self.space == "latent" else spec.frame_shape

    def required_backbones(self, jnd_index: int = 1) -> tuple[str, ...]:
        """Return the names of the autoencoders to train before this variant, in branch order.

        Args:
          jnd_index: level (1, 2, 3) of a single-level variant; ignored for others.
        """
        if jnd_index not in (1, 2, 3):
            raise ValueError(f"jnd_index must be 1, 2 or 3, got {jnd_index}")
        if self.end_to_end:
            return ("image",)
        return (f"jnd{jnd_index}",) if self.num_levels == 1 else ("jnd1", "jnd2", "jnd3")


LAT = Variant(name="lat", space="latent", num_levels=1, end_to_end=False)
REC = Variant(name="rec", space="reconstructed", num_levels=1, end_to_end=False)
E2E_LAT = Variant(name="e2e-lat", space="latent", num_levels=1, end_to_end=True)
E2E_REC = Variant(name="e2e-rec", space="reconstructed", num_levels=1, end_to_end=True)
MJ_LAT = Variant(name="mj-lat", space="latent", num_levels=3, end_to_end=False)
MJ_REC = Variant(name="mj-rec", space="reconstructed", num_levels=3, end_to_end=False)

VARIANTS = (LAT, REC, E2E_LAT, E2E_REC, MJ_LAT, MJ_REC)

# Published for the best variant with three levels, on VideoSet. The other figures are not known.
PUBLISHED_JND1_ERROR_QP = 1.57
PUBLISHED_JND1_PSNR_ERROR_DB = 0.72


def variant_named(name: str) -> Variant:
    """Return the variant of a name.

    Raises:
      UserError: there is none; the message lists the known ones.
    """
    variants = {variant.name: variant for variant in VARIANTS}
    if name not in variants:
        hint = nearest(name, variants) or "Use one of the known variants."
        raise UserError(
            f'Unknown variant "{name}". Known variants: {", ".join(variants)}.', hint=hint
        )
    return variants[name]
