"""Half precision and int8, with calibration."""
