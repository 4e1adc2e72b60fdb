"""A descriptor pool of our own.

The messages keep etcd's names (``etcdserverpb.PutRequest``), so in protobuf's
default pool they would clash with the generated code of any other etcd client
that lives in the same process.
"""

from __future__ import annotations

from google.protobuf import descriptor_pool

POOL = descriptor_pool.DescriptorPool()
