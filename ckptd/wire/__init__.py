"""The network's words: messages, statuses and addresses, for both ends."""
