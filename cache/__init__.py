"""The teacher's embeddings in sharded HDF5."""
