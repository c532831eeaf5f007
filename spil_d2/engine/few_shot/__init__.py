"""Few-shot detection by instance search: base training, class kernels, detection, export."""
