"""OCI layers: write a tree as a layer, apply a layer to a tree."""
