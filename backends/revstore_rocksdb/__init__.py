"""The backend "rocksdb": an LSM tree."""
