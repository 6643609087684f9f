"""The six published predictors, as combinations of a backbone's place, levels and training.

Plain data, without Keras: what a variant needs is known before anything is loaded.
"""

from dataclasses import dataclass
from typing import Literal

from laser_dist.errors import UserError
from laser_dist.models.specs import LATENT_HEAD, RECONSTRUCTION_HEAD, BackboneSpec, HeadSpec


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What one of the predictors is made of.

    Attributes:
      name: as on the command line.
      space: what the head sees, the backbone's latent or the frame it reconstructs.
      num_levels: levels predicted at once, and as many backbones.
      end_to_end: whether the backbone is trained with the head; if not, it is frozen.
    """

    name: str
    space: Literal["latent", "reconstructed"]
    num_levels: Literal[1, 3]
    end_to_end: bool

    @property
    def published_head(self) -> HeadSpec:
        """The published head of this variant's family, with a linear output."""
        return LATENT_HEAD if self.space == "latent" else RECONSTRUCTION_HEAD

    def feature_shape(self, spec: BackboneSpec) -> tuple[int, int, int]:
        """Shape (h, w, c) of what one backbone of size `spec` gives the head."""
        return spec.latent_shape if self.space == "latent" else spec.frame_shape

    def required_backbones(self, jnd_index: int = 1) -> tuple[str, ...]:
        """Names of the autoencoders that are trained before this variant, in branch order.

        Args:
          jnd_index: which level (1, 2, 3) a single-level variant predicts; else not looked at.
        """
        if jnd_index not in (1, 2, 3):
            raise ValueError(f"JND index: expected 1, 2 or 3, got {jnd_index}.")
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


def variant_named(name: str) -> Variant:
    """The variant of that name.

    Raises:
      UserError: there is none; the known ones are listed.
    """
    for variant in VARIANTS:
        if variant.name == name:
            return variant
    known = ", ".join(variant.name for variant in VARIANTS)
    raise UserError("Model variant", f"one of {known}", name, "Choose one of them.")
