//! The `pgoutput` plugin's messages. Pure.
