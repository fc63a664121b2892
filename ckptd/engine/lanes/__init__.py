"""The way of the bytes: what goes into which shard, where, and with which sums."""
