//! Throwaway Postgres servers.
