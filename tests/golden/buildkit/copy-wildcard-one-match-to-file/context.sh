echo r > only.txt; mkdir dirx; echo d > dirx/d
