"""The write-ahead log "segment"."""
