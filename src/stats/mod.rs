//! Second moments of every linear layer's input, and the calibration text they come from.
