"""Sends HTTP requests byte by byte, as broken and hostile clients do. Plain functions; no fixture, no state."""

import socket


def connected(url: str, timeout: float = 20.0) -> socket.socket:
    """Connect to a server such as ``http://127.0.0.1:8000``; reads fail after ``timeout`` seconds."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=timeout)


def head(path: str, length: int, content_type: str = "application/json") -> bytes:
    """Headers of a POST request whose body has ``length`` bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {content_type}", f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()


def received(connection: socket.socket, end: bytes | None = None) -> bytes:
    """What comes until these bytes, or until the server closes the connection."""
    data = b""
    while (end is None or end not in data) and (chunk := connection.recv(1 << 16)):
        data += chunk
    return data
