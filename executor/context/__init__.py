"""Build contexts: where the files of a build come from."""
