"""Other people's files of named tensors: safetensors and npz, read and written in bounded memory."""
