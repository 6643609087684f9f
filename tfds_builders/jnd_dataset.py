"""What the builders of judged frame pairs have in common: metadata, and the build."""

import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines.dataset.frame_pairs import PairSettings
from beam_pipelines.dataset.pipeline import BuildPlan, add_build, written_shards
from beam_pipelines.dataset.places import BuildPlaces, places_of
from beam_pipelines.inputs.archive_index import find_files
from beam_pipelines.inputs.inventory import Inventory, Layout, take_inventory
from beam_pipelines.rejects import MAX_REJECT_RATE, Reject, lost_sources
from beam_pipelines.rejects_table import (
    REJECTS_FILE,
    clear_failures,
    read_rejects,
    refuse_too_many,
    write_rejects,
)
from beam_pipelines.runner import (
    local_options,
    new_pipeline,
    one_worker,
    run_to_end,
)
from laser_dist import storage
from laser_dist.errors import UserError
from laser_dist.jnd.scale import Scale
from laser_dist.jnd.splits import SPLITS, assign_splits, folds
from laser_dist.storage import StoredFile
from tfds_builders.jnd_config import JndConfig
from tfds_builders.jnd_features import pair_features
from tfds_builders.shard_writer import WriteShards

# TFDS takes a folder for a dataset where this file is: it is published last.
_INFO_FILE = "dataset_info.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """How a dataset is to be built, beyond what TFDS can be told.

    Attributes:
      manual_dir: of clips and labels, a path or URL; None for TFDS's own manual folder.
      inventory: of it, where it has been taken already.
      options: of Beam; None for all cores of this machine.
      max_reject_rate: largest share of the sources that may be lost or lose a clip.
      on_start: called with the name of the job, where it runs on other machines.
    """

    manual_dir: str | None = None
    inventory: Inventory | None = None
    options: PipelineOptions | None = None
    max_reject_rate: float = MAX_REJECT_RATE
    on_start: Callable[[str], None] = print


class JndBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Frame pairs raw/JND1..3 and the quality table of judged clips or images.

    Attributes:
      SCALE: of the levels.
      request: how it is to be built; set before `download_and_prepare`.
    """

    SCALE: Scale
    request = BuildRequest()

    @property
    def layout(self) -> Layout:
        """How the dataset names its files, and what its labels mean."""
        raise NotImplementedError

    def inventory_of(
        self, files: Sequence[StoredFile], lost: Sequence[Reject], folder: str
    ) -> Inventory:
        """Find and match clips and labels; `lost` is added to the rejects."""
        inventory = take_inventory(files, folder, self.layout)
        return dataclasses.replace(inventory, rejects=(*lost, *inventory.rejects))

    # TFDS wraps its own method for logging, which a type checker takes for another kind of thing.
    def download_and_prepare(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, **kwargs: Any
    ) -> None:
        """As TFDS's own, which does nothing where the dataset is there already.

        What an earlier build that failed has finished is taken over.

        Raises:
          UserError: clips or labels that cannot be used, too many of the sources with rejects (a
            table of them then lies beside the dataset's folder), or a folder that cannot be
            written.
        """
        places = places_of(self.data_dir)
        with clear_failures(places.refusal, places.dataset):
            super().download_and_prepare(**kwargs)
        storage.remove(places.work)

    def prepare_at(self, dataset: str, file_format: str) -> None:
        """As `download_and_prepare`, into a folder that only Beam can write, such as gs://.

        Args:
          dataset: the version's folder; what stands there is removed when the input has been
            looked at and found good. Until all of the new one is there, it holds nothing that TFDS
            would load.
          file_format: of the examples.
        """
        places = places_of(dataset)
        storage.check_writable(dataset)
        with clear_failures(places.refusal, dataset), tempfile.TemporaryDirectory() as scratch:
            self.info.set_file_format(file_format, override=True)
            self._build(places, self.request, make_room=lambda: _remove_dataset(dataset))
            self.info.write_to_directory(scratch)
            names = {path.name for path in Path(scratch).iterdir()}
            for name in (*sorted(names - {_INFO_FILE}), _INFO_FILE):
                storage.publish(Path(scratch) / name, storage.join(dataset, name))
        storage.remove(places.work)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=pair_features(self._config.pairs, self.SCALE),
            metadata=tfds.core.MetadataDict(),
        )

    @property
    def pair_settings(self) -> PairSettings:
        """How frames are taken from the clips."""
        return self._config.pairs

    @property
    def _config(self) -> JndConfig:
        config = self.builder_config
        assert isinstance(config, JndConfig)
        return config

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        request = dataclasses.replace(
            self.request,
            manual_dir=self.request.manual_dir or str(dl_manager.manual_dir),
            options=self.request.options or download_config.beam_options,
        )
        # While TFDS builds, `data_dir` is a temporary folder in the same place.
        self._build(places_of(self.data_dir), request)

    def _build(
        self,
        places: BuildPlaces,
        request: BuildRequest,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        """Runs the pipeline and tells TFDS what it has written.

        Args:
          places: of input and output.
          request: how to build.
          make_room: called when all that can be known by name is in order.
        """
        assert request.manual_dir is not None
        options = request.options or local_options()
        inventory = request.inventory
        if inventory is None:
            found = find_files(request.manual_dir, places.archives, options, request.on_start)
            inventory = self.inventory_of(*found, request.manual_dir)
        rejects, total = inventory.rejects, inventory.num_sources
        refuse_too_many(rejects, total, places.refusal, max_share=request.max_reject_rate)
        groups = {source.source_id: source.group_id for source in inventory.sources}
        splits = assign_splits(groups)
        _check_every_split(splits, request.manual_dir)
        options, num_processes = one_worker(options)
        plan = BuildPlan(
            sources=inventory.sources,
            rejects=rejects,
            num_sources=total,
            splits=splits,
            settings=self._config.pairs,
            places=places,
            max_reject_rate=request.max_reject_rate,
            num_processes=num_processes,
        )
        file_format = self.info.file_format
        assert file_format is not None  # TFDS has a default
        write_shards = WriteShards(
            self.name,
            places.dataset,
            file_format.value,
            self._config.pairs,
            self.SCALE,
        )
        make_room()
        pipeline = new_pipeline(options)
        add_build(pipeline, plan, write_shards)
        run_to_end(pipeline, request.on_start)
        metadata = self.info.metadata
        assert metadata is not None  # `_info` gives one
        left = _splits_left(splits, places, request)
        metadata.update(self._metadata(inventory, groups, left))
        self.info.set_splits(self._split_dict(places))

    def _split_dict(self, places: BuildPlaces) -> Any:
        return tfds.core.splits.SplitDict(
            [
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[shard.num_examples for shard in shards],
                    num_bytes=sum(shard.num_bytes for shard in shards),
                    filename_template=self._get_filename_template(split),
                )
                for split, shards in written_shards(places.work).items()
            ]
        )

    def _metadata(
        self,
        inventory: Inventory,
        groups: Mapping[str, str],
        splits: Mapping[str, str],
    ) -> dict[str, Any]:
        config = self._config
        num_groups = len(set(groups.values()))
        return {
            "simulated": bool(inventory.simulated),
            "simulation": inventory.simulated,
            "seed": inventory.seed,
            "scale": self.SCALE.name,
            "higher_is_worse": self.SCALE.higher_is_worse,
            "level_definition": inventory.level_definition,
            **self._config_facts(),
            "model_width": config.model_width,
            "model_height": config.model_height,
            "frames_per_second": config.frames_per_second,
            "fingerprint": self.fingerprint(inventory),
            "repairs": list(inventory.repairs),
            "num_rejected_by_name": len(inventory.rejects),
            "splits": {
                split: sorted(source for source, name in splits.items() if name == split)
                for split in SPLITS
            },
            # Dealt out before any source is lost, so that no other one changes its fold.
            "folds": [
                [source for source in fold if source in splits]
                for fold in folds(groups, min(config.num_folds, num_groups))
            ],
        }

    def _config_facts(self) -> dict[str, Any]:
        """What a dataset's own settings add to the metadata."""
        return {}

    def fingerprint(self, inventory: Inventory) -> str:
        """Hash of input and settings, 16 hex digits: equal ones have equal examples."""
        parts = repr((inventory.fingerprint, self._config.pairs))
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    def _split_generators(self, dl_manager: Any) -> Any:
        raise NotImplementedError("The dataset is written by a pipeline of its own.")

    def _generate_examples(self) -> Iterable[Any]:
        raise NotImplementedError("The dataset is written by a pipeline of its own.")


def _remove_dataset(dataset: str) -> None:
    """Removes a version's folder so that no part of it is ever loadable."""
    storage.remove(storage.join(dataset, _INFO_FILE))
    storage.remove(dataset)


def _splits_left(
    splits: Mapping[str, str], places: BuildPlaces, request: BuildRequest
) -> dict[str, str]:
    """The splits without the sources that were lost when they were measured."""
    rejects, total = read_rejects(storage.join(places.dataset, REJECTS_FILE))
    lost = lost_sources(rejects)
    left = {source: split for source, split in splits.items() if source not in lost}
    empty = sorted(set(splits.values()) - set(left.values()))
    if empty:
        write_rejects(rejects, total, places.refusal, max_share=request.max_reject_rate)
        raise UserError(
            f"Sources below {request.manual_dir}",
            f"some for each of {', '.join(SPLITS)}",
            f"none left for {', '.join(empty)}, as {len(lost)} were lost",
            f"Mend these inputs, then start again. All of them: {places.refusal}.",
        )
    return left


def _check_every_split(splits: Mapping[str, str], folder: str) -> None:
    missing = sorted(set(SPLITS) - set(splits.values()))
    if missing:
        raise UserError(
            f"Sources below {folder}",
            f"three groups or more, one for each of {', '.join(SPLITS)}",
            f"{len(splits)} sources, none left for {', '.join(missing)}",
            "Add sources of other footage.",
        )
