"""The base class of encoders that read pixels: it limits the frames of a call and keeps all ranks' calls equal."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

from components.encoders.frame_check import check_frames
from components.interfaces import FrameEncoder, FrameFeatures
from components.packed_frames import locate_frames
from components.sharding import active_sharding, hand_to_sharding

ModelT = TypeVar("ModelT", bound=nn.Module)


class FrameChunk(NamedTuple):
    """The frames of one call of a network."""

    frames: Tensor  # uint8 [f, 3, H, W]; f is at least 1
    window_lengths: Sequence[int]  # frames of every window, in order; they sum to f
    network: int  # which network encodes them, see PixelEncoder.network_of


class PixelEncoder(FrameEncoder):
    """Encodes packed frames chunk by chunk. A subclass writes its constructor and ``encode_chunk``.

    The constructor calls ``super().__init__`` first, loads its networks with ``prepared``, and sets ``dim``,
    ``num_patches``, ``image_size`` and ``title``. ``encode_chunk`` encodes a few frames. This class does the rest:

    - It divides the frames into chunks. A chunk has at most ``max_frames_per_call`` frames and never divides a window
      of frames that attend to each other (``window_frames``), unless there is no smaller chunk than one window.
    - Where a strategy shards weights, every call gathers them from all ranks. So all ranks make as many calls as the
      rank with the most frames; the further calls encode a black frame.
    - While no weight trains, it computes no gradients and stays in eval mode: dropout would only add noise.

    Args:
        max_frames_per_call: Most frames of a chunk. It limits memory and does not change the result.

    Attributes:
        image_size: Side of the frames that ``forward`` reads, in pixels.
        title: What error messages call the encoder.
        num_networks: Networks that encode different videos. If there are several, override ``network_of``.

    Raises:
        ValueError: ``max_frames_per_call`` is no positive multiple of ``window_frames``.
    """

    image_size: int
    title: str
    num_networks: int = 1

    def __init__(self, max_frames_per_call: int = 64) -> None:
        super().__init__()
        window = self.window_frames or 1
        if max_frames_per_call < window or max_frames_per_call % window:
            wanted = "at least 1" if window == 1 else f"a positive multiple of {window}"
            raise ValueError(f"max_frames_per_call must be {wanted}, got {max_frames_per_call}")
        self.max_frames_per_call = max_frames_per_call
        self._sharding = active_sharding()

    @abstractmethod
    def encode_chunk(self, chunk: FrameChunk) -> FrameFeatures:
        """Encode the frames of one chunk; its features must not depend on how frames are divided into chunks."""

    def network_of(self, num_frames: int) -> int:
        """Which network encodes a video of so many frames, in ``0..num_networks - 1``."""
        return 0

    def prepared(self, network: ModelT, dtype: torch.dtype, *, frozen: bool = True) -> ModelT:
        """Prepare a network that was just loaded: freeze it, and hand its weights to a strategy that shards.

        Args:
            network: The complete network.
            dtype: Dtype of its weights.
            frozen: Whether its weights stay as they are.

        Returns:
            The same network.
        """
        if frozen:
            network.requires_grad_(False)
            network.eval()
            self.training = False
        hand_to_sharding(network, dtype)
        return network

    def train(self, mode: bool = True) -> Self:
        """Set training mode, but stay in eval mode while no weight trains."""
        return super().train(mode and self._trains())

    def forward(self, frames: Tensor, frame_counts: Tensor) -> FrameFeatures:
        """Encode packed frames.

        Args:
            frames: uint8 ``[F, 3, image_size, image_size]``; F may be 0.
            frame_counts: Frames of every video, ``[V]`` int64; windows do not cross videos.

        Returns:
            Features of the F frames in the encoder's dtype.

        Raises:
            ValueError: The frames have another dtype or shape (they are resized where they are decoded, not here), or
                the counts do not sum to F.
        """
        check_frames(frames, self.image_size, self.title)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._trains()):
            return self._encode(frames, self._chunks(frame_counts, len(frames)))

    def dummy_frames(self, device: object) -> Tensor:
        """One black frame, uint8 ``[1, 3, image_size, image_size]``."""
        return torch.zeros(1, 3, self.image_size, self.image_size, dtype=torch.uint8, device=torch.device(str(device)))

    def _trains(self) -> bool:
        return any(parameter.requires_grad for parameter in self.parameters())

    def _encode(self, frames: Tensor, plans: "list[list[_ChunkPlan]]") -> FrameFeatures:
        """Make all calls, network by network, in the same order on every rank."""
        calls = [self._calls(len(chunks)) for chunks in plans]  # before any call, which waits for the other ranks too
        runs: list[tuple[int, FrameFeatures]] = []  # first frame and features of frames that follow each other
        unused: list[FrameFeatures] = []
        for network, (chunks, num_calls) in enumerate(zip(plans, calls, strict=True)):
            for plan in chunks:
                parts = [frames[start:stop] for start, stop in plan.runs]
                chunk = FrameChunk(parts[0] if len(parts) == 1 else torch.cat(parts), plan.window_lengths, network)
                features, first = self.encode_chunk(chunk), 0
                for start, stop in plan.runs:
                    runs.append((start, features.of_frames(slice(first, first + stop - start))))
                    first += stop - start
            for _ in range(num_calls - len(chunks)):
                unused.append(self.encode_chunk(FrameChunk(self.dummy_frames(frames.device), [1], network)))
        if not runs:
            unused = unused or [self.encode_chunk(FrameChunk(self.dummy_frames(frames.device), [1], 0))]
            joined = unused[0].of_frames(slice(0))
        else:
            in_order = [features for _, features in sorted(runs, key=lambda run: run[0])]
            joined = in_order[0] if len(in_order) == 1 else FrameFeatures.joined(in_order)
        if torch.is_grad_enabled():
            # A network that only saw a black frame gets gradients of zero, so that all ranks reduce the same ones.
            for each in unused:
                given = (each.cls, each.patches, each.joint)
                nothing = sum(0.0 * field.sum() for field in given if field is not None)
                joined = joined._replace(cls=joined.cls + nothing)
        return joined

    def _calls(self, own: int) -> int:
        """Number of calls of one network, given how many this rank needs."""
        own = max(own, 1) if torch.is_grad_enabled() or self._sharding is not None else own
        return own if self._sharding is None else self._sharding.largest_of_all_ranks(own)

    def _chunks(self, frame_counts: Tensor, num_frames: int) -> "list[list[_ChunkPlan]]":
        """The chunks of every network."""
        locate_frames(frame_counts, num_frames)  # raises if the counts do not sum to F
        counts = frame_counts.tolist()
        windows: list[list[tuple[int, int]]] = [[] for _ in range(self.num_networks)]
        first = 0
        for count in counts:
            size = self.window_frames or count
            windows[self.network_of(count)] += [
                (start, min(start + size, first + count)) for start in range(first, first + count, size)
            ]
            first += count
        return [list(self._plans(each)) for each in windows]

    def _plans(self, windows: Sequence[tuple[int, int]]) -> "Iterator[_ChunkPlan]":
        plan, cost = _ChunkPlan([], []), 0
        for start, stop in windows:
            size = self.window_frames or stop - start  # a network may pad a short window
            if plan.runs and cost + size > self.max_frames_per_call:
                yield plan
                plan, cost = _ChunkPlan([], []), 0
            plan.window_lengths.append(stop - start)
            cost += size
            if plan.runs and plan.runs[-1][1] == start:
                plan.runs[-1] = (plan.runs[-1][0], stop)
            else:
                plan.runs.append((start, stop))
        if plan.runs:
            yield plan


class _ChunkPlan(NamedTuple):
    """Which of the packed frames one chunk has."""

    runs: list[tuple[int, int]]  # first frame, and the one after the last, of frames that follow each other
    window_lengths: list[int]
