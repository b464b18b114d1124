"""RefineStyle: a frozen StyleGAN2 generator refined by low-rank token sets."""
