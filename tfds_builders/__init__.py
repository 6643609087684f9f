"""TensorFlow Datasets builders of judged video.

Importing this package registers them: `import tfds_builders; tfds.load("videoset_jnd", ...)`.
"""

from tfds_builders.videoset_jnd import videoset_jnd_dataset_builder as videoset_jnd_dataset_builder
