"""Access control: identities, tokens, the policy and its decisions. Plain values and two small files; no network."""
