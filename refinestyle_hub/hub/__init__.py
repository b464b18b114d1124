"""Where models are: bundled with the package, in a folder, on the Hub; loading, saving, sharing.

Nothing is imported here: ``sources`` alone needs no torch.
"""
