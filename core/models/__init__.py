"""Model files: catalogues, the models folder, downloads, metadata, and memory estimates.

Downloads need the extra `models`: `pip install 'sarai-skills[models]'`.
"""
