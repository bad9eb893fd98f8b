//! WaterSIC and its trellis successor: matrices in, integers and scales out.
