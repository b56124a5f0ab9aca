"""`retouch demo`: the main job on real pictures, on a stack of its own."""
