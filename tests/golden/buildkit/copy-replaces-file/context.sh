echo new > f; chmod 640 f
