"""Generated etcd messages, in a descriptor pool of their own."""
