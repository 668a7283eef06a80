"""From a folder of images to a trained classifier that the pipeline can seal."""
