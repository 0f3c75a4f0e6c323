"""HTTP on the unix socket: routes that write what is wanted and wake the loop, and routes that read."""
