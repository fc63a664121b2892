"""The store in a bucket: S3, and what fsspec supports."""
