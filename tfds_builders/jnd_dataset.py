"""Base of the builders: dataset info, metadata, and the build with Beam."""

import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines.dataset.pipeline import (
    BuildLocations,
    BuildPlan,
    WrittenBuild,
    add_build,
    written_build,
)
from beam_pipelines.elements import PairSettings
from beam_pipelines.inputs.archive_index import find_files
from beam_pipelines.inputs.inventory import Inventory, Layout, take_inventory
from beam_pipelines.rejects import (
    MAX_REJECT_RATE,
    REJECTS_FILE,
    Reject,
    check_reject_rate,
    impaired_sources,
    lost_sources,
    naming_archives,
    read_rejects,
)
from beam_pipelines.runner import (
    local_options,
    new_pipeline,
    num_processes,
    run_to_end,
    translate_failures,
    wait_for_job,
)
from laser_dist import storage
from laser_dist.errors import UserError
from laser_dist.jnd.scale import Scale
from laser_dist.jnd.splits import SPLITS, Split, assign_splits
from laser_dist.simulation import MARKER_NAME
from laser_dist.storage import StoredFile
from laser_dist.storage.temporary import marked, remove_abandoned
from tfds_builders.jnd_config import JndConfig
from tfds_builders.jnd_features import pair_features
from tfds_builders.shard_writer import FILE_FORMAT, WriteShards

# TFDS takes a folder with this file for a dataset, so it is published last.
_INFO_FILE = "dataset_info.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """Options of a build that TFDS does not have.

    Attributes:
      manual_dir: folder of clips and labels, a path or URL; None for TFDS's manual folder.
      inventory: inventory of that folder; None to take it.
      options: Beam options; None for all cores of this machine.
      max_reject_rate: largest accepted share of sources that are lost or lack a clip, in [0, 1].
      max_examples_per_split: build only as many sources as needed for these; None for all.
      job: id of a Dataflow job to finish, in place of a new pipeline; for buckets only.
      on_start: called with the name of a Dataflow job.
      on_poll: called regularly while the pipeline runs on this machine.
    """

    manual_dir: str | None = None
    inventory: Inventory | None = None
    options: PipelineOptions | None = None
    max_reject_rate: float = MAX_REJECT_RATE
    max_examples_per_split: int | None = None
    job: str = ""
    on_start: Callable[[str], None] = print
    on_poll: Callable[[], None] = lambda: None


class JndBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Frame pairs raw/JND1..3 and the quality table of labeled clips or images.

    Attributes:
      SCALE: scale of the levels.
      HOMEPAGE: where the source data are published.
      LICENSE: terms of the source data.
      request: options of the build; set before `download_and_prepare`.
    """

    SCALE: Scale
    HOMEPAGE: str
    LICENSE: str
    request = BuildRequest()

    @property
    def layout(self) -> Layout:
        """How the dataset names its files, and what its labels mean."""
        raise NotImplementedError

    def inventory_of(
        self, files: Sequence[StoredFile], lost: Sequence[Reject], folder: str
    ) -> Inventory:
        """Find and match clips and labels; `lost` is added to the rejects."""
        for reject in lost:
            if reject.where.endswith(MARKER_NAME):  # simulated viewers would pass for people
                raise UserError(f"{reject.where} cannot be read: {reject.why}.")
        with naming_archives(lost):
            inventory = take_inventory(files, folder, self.layout)
        return dataclasses.replace(inventory, rejects=(*lost, *inventory.rejects))

    # TFDS wraps its own method for logging, which type checkers take for another kind of object.
    def download_and_prepare(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, **kwargs: Any
    ) -> None:
        """Build the dataset unless it exists, like TFDS's own method.

        Files that a failed build has measured are reused.

        Raises:
          UserError: clips or labels cannot be used, too many sources have rejects (a table of them
            is then written next to the dataset's folder), a folder cannot be written, another file
            format than TFRecord is requested, or an option of `DownloadConfig` that these datasets
            do not have.
        """
        _check_download_config(kwargs.get("download_config"))
        file_format = kwargs.get("file_format") or self.info.file_format
        if file_format is not None and getattr(file_format, "value", file_format) != FILE_FORMAT:
            raise UserError(
                f"{self.name} is built as {FILE_FORMAT} files only, not as {file_format}.",
                hint="Leave the file format out.",
            )
        locations = BuildLocations.of(str(self.data_dir))
        folder = Path(self.data_dir).parent
        remove_abandoned(folder, f"incomplete.*_{self.version}")
        with translate_failures(locations.refusal, locations.dataset), _kept_if_built(folder):
            super().download_and_prepare(**kwargs)
        storage.remove(locations.work)

    def prepare_at(self, dataset: str) -> None:
        """Build into a bucket, which TFDS cannot write; or finish what a Dataflow job has built.

        Args:
          dataset: URL of the version's folder; its content is removed once the input has been
            checked. TFDS does not load the new content before it is complete.
        """
        locations, request = BuildLocations.of(dataset), self.request
        storage.check_writable(dataset)
        with (
            translate_failures(locations.refusal, dataset, is_new=not request.job),
            tempfile.TemporaryDirectory() as scratch,
        ):
            if request.job:
                self._wait_for_job(locations, request)
            else:
                self._build(locations, request, before_writing=lambda: _remove_dataset(dataset))
            self._describe(locations)
            self.info.write_to_directory(scratch)
            names = {path.name for path in Path(scratch).iterdir()}
            for name in (*sorted(names - {_INFO_FILE}), _INFO_FILE):
                storage.upload(Path(scratch) / name, storage.join(dataset, name))
        for made in (storage.join(dataset, storage.MARK), locations.work):
            storage.remove(made)

    def _info(self) -> tfds.core.DatasetInfo:
        info = self.dataset_info_from_configs(
            features=pair_features(self._config.pairs, self.SCALE),
            metadata=tfds.core.MetadataDict(),
            homepage=self.HOMEPAGE,
            license=self.LICENSE,
        )
        # TFDS publishes no copy of the dataset, and its search leaves an empty temporary folder.
        info.initialize_from_bucket = lambda: None
        return info

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
            max_examples_per_split=download_config.max_examples_per_split,
        )
        # While TFDS builds, `data_dir` is a temporary folder next to the final one.
        locations = BuildLocations.of(str(self.data_dir))
        with marked(Path(self.data_dir)):
            self._build(locations, request)
            self._describe(locations)

    def _build(
        self,
        locations: BuildLocations,
        request: BuildRequest,
        before_writing: Callable[[], None] = lambda: None,
    ) -> None:
        """Run the pipeline.

        Args:
          locations: locations of input and output.
          request: options of the build.
          before_writing: called once names and labels have been checked.
        """
        assert request.manual_dir is not None
        options = request.options or local_options()
        inventory = request.inventory
        if inventory is None:
            found = find_files(request.manual_dir, locations.archives, options, request.on_start)
            inventory = self.inventory_of(*found, request.manual_dir)
        check_reject_rate(
            inventory.rejects,
            inventory.num_sources,
            max_rate=request.max_reject_rate,
            table=locations.refusal,
        )
        splits = assign_splits(inventory.kept_together)
        _check_every_split(splits, request.manual_dir)
        limit = request.max_examples_per_split
        if limit is not None:
            splits = _first_of_each(splits, limit)
            inventory = inventory.part_of(list(splits))
        plan = BuildPlan(
            sources=inventory.sources,
            rejects=inventory.rejects,
            num_sources=inventory.num_sources,
            splits=splits,
            settings=self._config.pairs,
            locations=locations,
            max_reject_rate=request.max_reject_rate,
            max_examples_per_split=limit,
            num_processes=num_processes(options),
            about=self._metadata(inventory, splits, limit),
        )
        storage.mark_folder(locations.work)
        before_writing()
        pipeline = new_pipeline(options)
        add_build(pipeline, plan, self._shard_writer(locations))
        run_to_end(pipeline, request.on_start, request.on_poll)

    def _wait_for_job(self, locations: BuildLocations, request: BuildRequest) -> None:
        assert request.options is not None
        assert request.inventory is not None
        wait_for_job(request.options, request.job, request.on_start)
        try:
            about = written_build(locations.work).about
        except FileNotFoundError as error:
            raise UserError(
                f"Dataflow job {request.job} has written no dataset to {locations.dataset}.",
                hint="Give the options with which the job was started.",
            ) from error
        if about["input_fingerprint"] != self.input_fingerprint(request.inventory):
            raise UserError(
                f"Dataflow job {request.job} was started with other options, or files below "
                f"{request.manual_dir} have changed since then.",
                hint="Build again without --finish.",
            )

    def _describe(self, locations: BuildLocations) -> None:
        """Describe what a pipeline has written to TFDS."""
        build = written_build(locations.work)
        rejects, _ = read_rejects(storage.join(locations.dataset, REJECTS_FILE))
        metadata = self.info.metadata
        assert metadata is not None  # `_info` sets one
        metadata.update(_without_lost(build.about, rejects, locations))
        metadata["fingerprint"] = content_fingerprint(build, rejects)
        self.info.set_splits(self._split_dict(build))

    def _shard_writer(self, locations: BuildLocations) -> WriteShards:
        return WriteShards(self.name, locations.dataset, self._config.pairs, self.SCALE)

    def _split_dict(self, build: WrittenBuild) -> Any:
        return tfds.core.splits.SplitDict(
            [
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[shard.num_examples for shard in shards],
                    num_bytes=sum(shard.num_bytes for shard in shards),
                    filename_template=self._get_filename_template(split),
                )
                for split, shards in build.shards.items()
            ]
        )

    def _metadata(
        self,
        inventory: Inventory,
        splits: Mapping[str, str],
        max_examples: int | None,
    ) -> dict[str, Any]:
        config = self._config
        return {
            "simulated": bool(inventory.simulated),
            "simulation": inventory.simulated,
            "seed": inventory.seed,
            "scale": self.SCALE.name,
            "higher_is_worse": self.SCALE.higher_is_worse,
            "level_definition": inventory.level_definition,
            **self._config_metadata(),
            "model_width": config.model_width,
            "model_height": config.model_height,
            "frames_per_second": config.frames_per_second,
            "input_fingerprint": self.input_fingerprint(inventory, max_examples),
            "part": list(inventory.part),
            "split_by": inventory.split_by,
            "repairs": list(inventory.repairs),
            "num_rejected_by_name": len(inventory.rejects),
            "splits": {
                split: sorted(source for source, name in splits.items() if name == split)
                for split in SPLITS
            },
        }

    def _config_metadata(self) -> dict[str, Any]:
        """Return metadata from a dataset's own settings."""
        return {}

    def input_fingerprint(self, inventory: Inventory, max_examples: int | None = None) -> str:
        """Hash input and settings, which are known before a build: 16 hex digits."""
        return _hash(inventory.fingerprint, self._config.pairs, max_examples)

    def _split_generators(self, dl_manager: Any) -> Any:
        raise NotImplementedError("The Beam pipeline of `_build` writes the dataset.")

    def _generate_examples(self) -> Iterable[Any]:
        raise NotImplementedError("The Beam pipeline of `_build` writes the dataset.")


@contextmanager
def _kept_if_built(config_folder: Path) -> Iterator[None]:
    """Remove the metadata that TFDS writes before it builds, if the first build of all fails."""
    metadata = config_folder.parent / ".config"
    is_new = not metadata.exists()
    try:
        yield
    except BaseException:
        if is_new:
            shutil.rmtree(metadata, ignore_errors=True)
        raise


def _check_download_config(config: Any) -> None:
    """Check that TFDS's options do not ask for what `_build` does not do.

    Raises:
      UserError: they do.
    """
    default = tfds.download.DownloadConfig()
    unused = ("beam_runner", "compute_stats", "num_shards", "min_shard_size", "max_shard_size")
    unused += ("ignore_duplicates", "nondeterministic_order")
    given = [name for name in unused if config and getattr(config, name) != getattr(default, name)]
    if given:
        raise UserError(
            f"These datasets do not have the DownloadConfig options {', '.join(given)}.",
            hint="Leave them out. Name a Beam runner in beam_options.",
        )
    if config and config.max_examples_per_split == 0:
        raise UserError("max_examples_per_split must be at least 1.")


def _first_of_each(splits: Mapping[str, Split], count: int) -> dict[str, Split]:
    """Return at most `count` sources of each split; each source has at least one example."""
    return {
        source: split
        for split in SPLITS
        for source in sorted(source for source in splits if splits[source] == split)[:count]
    }


def _remove_dataset(dataset: str) -> None:
    """Remove a version's folder so that no part of it can be loaded meanwhile.

    Raises:
      UserError: it has files that no build wrote.
    """
    info = storage.join(dataset, _INFO_FILE)
    if not storage.exists(info):
        storage.mark_folder(dataset)
    storage.remove(info)
    storage.remove(dataset)
    storage.mark_folder(dataset)


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def content_fingerprint(build: WrittenBuild, rejects: Sequence[Reject]) -> str:
    """Hash all that decides the content; the folder of the input does not."""
    lost = sorted(
        (reject.what, reject.where.rpartition("/")[2], reject.source_id)
        for reject in rejects
        if impaired_sources([reject])
    )
    return _hash(build.about["input_fingerprint"], build.made_by, lost)


def _without_lost(
    about: Mapping[str, Any], rejects: Sequence[Reject], locations: BuildLocations
) -> dict[str, Any]:
    """Return metadata without the sources that were lost during measuring."""
    lost = lost_sources(rejects)
    # Assigned before any source was lost, so that a lost one does not move the others.
    splits = {
        split: [source for source in sources if source not in lost]
        for split, sources in about["splits"].items()
    }
    empty = sorted(split for split, sources in splits.items() if not sources)
    if empty:
        table = storage.read_bytes(storage.join(locations.dataset, REJECTS_FILE))
        storage.write_bytes(locations.refusal, table)
        raise UserError(
            f"{len(lost)} sources were lost, which leaves none for {', '.join(empty)}.",
            hint="Fix these inputs, then run the command again. All rejects are listed in "
            f"{locations.refusal}.",
        )
    return {**about, "splits": splits}


def _check_every_split(splits: Mapping[str, str], folder: str) -> None:
    missing = sorted(set(SPLITS) - set(splits.values()))
    if missing:
        raise UserError(
            f"{folder} holds {len(splits)} usable sources, which leaves none for "
            f"{', '.join(missing)}: at least three groups are needed.",
            hint="Add sources from other footage. Number your own clips in VideoSet's layout from "
            "221, because those below belong to its films.",
        )
