echo r > real
