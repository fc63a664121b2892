"""Files of named tensors in other formats: safetensors and npz, read and written in bounded memory."""
