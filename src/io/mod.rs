//! The thin face to glommio and io_uring.
