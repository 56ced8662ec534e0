"""BulkCommandService: many commands over one stream, pipelined through the executor."""

import asyncio
from collections.abc import AsyncIterator

from command_service.calls import Answer, CommandStream
from command_service.command import Command, CommandTypes
from command_service.executor import Executor
from shared.call import Call
from shared.errors import InvalidArgument, TidemarkError, Unavailable, invalid_field
from shared.rpc import status_of
from tidemark.v1.command_pb2 import ExecuteRequest, ExecuteResponse

MAX_COMMANDS = 1000
"""In one request."""

MAX_REQUESTS = 64
"""Of one stream, read and not answered."""


class BulkCommands:
    """Executes whatever commands come, and answers in their order."""

    def __init__(self, types: CommandTypes, executor: Executor) -> None:
        self._types = types
        self._executor = executor

    async def execute(self, requests: AsyncIterator[ExecuteRequest], call: Call) -> None:
        """See the contract."""
        stream = _Stream(self._types, self._executor, requests, call)
        await stream.run()


class _Stream:
    """One stream: a task reads and submits, this one answers."""

    def __init__(
        self,
        types: CommandTypes,
        executor: Executor,
        requests: AsyncIterator[ExecuteRequest],
        call: Call,
    ) -> None:
        self._types = types
        self._executor = executor
        self._requests = requests
        self._call = call
        self._tenant_id = call.tenant_id
        self._commands = CommandStream()
        self._submitted: asyncio.Queue[_Submitted | None] = asyncio.Queue()
        self._unanswered = asyncio.Semaphore(MAX_REQUESTS)

    async def run(self) -> None:
        reader = asyncio.create_task(self._read(), name="read bulk commands")
        # The end of what is to be answered, whatever ended the reading, even before it began.
        reader.add_done_callback(lambda _: self._submitted.put_nowait(None))
        try:
            with self._call.drain.calling(reader.cancel):
                while (submitted := await self._submitted.get()) is not None:
                    await self._call.send(await submitted.response())
                    self._unanswered.release()
            await self._end(reader)
        finally:
            self._commands.fail(Unavailable("CALLER_GONE", "Nobody waits for the answer"))
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _end(self, reader: asyncio.Task[None]) -> None:
        """Ends as the reading did.

        Raises:
            TidemarkError: a request was wrong, or the service is stopping.
        """
        try:
            await reader
        except asyncio.CancelledError as error:
            if not self._call.drain.is_on:
                raise
            raise Unavailable("DRAINING", "The service is stopping") from error

    async def _read(self) -> None:
        async for request in self._requests:
            await self._unanswered.acquire()
            await self._executor.room(self._tenant_id, len(request.commands))
            self._submitted.put_nowait(self._submit(request))

    def _submit(self, request: ExecuteRequest) -> "_Submitted":
        if len(request.commands) > MAX_COMMANDS:
            raise invalid_field("commands", f"must be at most {MAX_COMMANDS}")
        commands: list[Command] = []
        rejected: dict[int, TidemarkError] = {}
        for slot, packed in enumerate(request.commands):
            try:
                message = self._types.unpack(packed)
                commands.append(self._types.read(message, self._tenant_id, self._call.actor))
            except InvalidArgument as error:
                rejected[slot] = error
        answers = self._executor.submit(commands, self._commands) if commands else None
        return _Submitted(len(request.commands), rejected, answers)


class _Submitted:
    """A request on its way to its response."""

    def __init__(
        self,
        count: int,
        rejected: dict[int, TidemarkError],
        answers: asyncio.Future[list[Answer]] | None,
    ) -> None:
        self._count = count
        self._rejected = rejected
        self._answers = answers

    async def response(self) -> ExecuteResponse:
        """The response, once every command has its verdict.

        Raises:
            TidemarkError: one has none.
        """
        answers = iter(await self._answers if self._answers else ())
        response = ExecuteResponse()
        for slot in range(self._count):
            answer = self._rejected.get(slot) or next(answers)
            result = response.results.add()
            if not isinstance(answer, TidemarkError):
                result.receipt.CopyFrom(answer)
            elif answer.is_verdict:
                result.error.CopyFrom(status_of(answer))
            else:
                raise answer
        return response
