//! zoo.cfg, as written and as meant.
