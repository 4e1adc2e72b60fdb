"""The write-ahead log "segment": etcd's file format, group commit, CRC-32C."""
