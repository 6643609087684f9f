"""TensorFlow Datasets builders of labeled video and images.

Importing this package registers them: `import tfds_builders; tfds.load("videoset_jnd", ...)`.
"""

from tfds_builders.mcl_jci_jnd import mcl_jci_jnd_dataset_builder as mcl_jci_jnd_dataset_builder
from tfds_builders.videoset_jnd import videoset_jnd_dataset_builder as videoset_jnd_dataset_builder
