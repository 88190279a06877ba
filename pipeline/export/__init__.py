"""A trained detector in formats that other programs run: ONNX, torch.export, quantized."""
