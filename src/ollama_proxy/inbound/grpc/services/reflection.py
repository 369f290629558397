"""grpc.reflection, v1 and v1alpha: what the services are, for clients that have not their files."""

from collections.abc import Iterator, Sequence
from typing import Any

from ollama_proxy.inbound.grpc.rpc import Rpc
from ollama_proxy.inbound.grpc.status import Status


class Described:
    """Every file that the services are made of, by its name and by what it defines."""

    def __init__(self, services: Sequence[Any]) -> None:
        """Look through the services' files, and what those import."""
        self.services = sorted(service.full_name for service in services)
        self.files: dict[str, Any] = {}
        self.symbols: dict[str, Any] = {}
        for service in services:
            self._add(service.file)

    def _add(self, file: Any) -> None:  # noqa: ANN401 - protobuf has no types
        if file.name in self.files:
            return
        self.files[file.name] = file
        self.symbols |= dict.fromkeys(_symbols(file), file)
        for other in file.dependencies:
            self._add(other)

    def closure(self, file: Any) -> list[bytes]:  # noqa: ANN401 - as above
        """A file, and after it all that it needs."""
        needed: dict[str, bytes] = {}
        todo = [file]
        while todo:
            each = todo.pop()
            if each.name not in needed:
                needed[each.name] = each.serialized_pb
                todo += each.dependencies
        return list(needed.values())


def _symbols(file: Any) -> Iterator[str]:  # noqa: ANN401 - as above
    for service in file.services_by_name.values():
        yield service.full_name
        yield from (method.full_name for method in service.methods)
    for enum in file.enum_types_by_name.values():
        yield enum.full_name
    todo = list(file.message_types_by_name.values())
    while todo:
        message = todo.pop()
        yield message.full_name
        yield from (field.full_name for field in message.fields)
        yield from (enum.full_name for enum in message.enum_types)
        todo += message.nested_types


class Reflection:
    """Serves both versions: their messages differ by their package alone."""

    def __init__(self, described: Described, pb: Any) -> None:  # noqa: ANN401 - one of two modules
        """Make ready."""
        self._described = described
        self._pb = pb

    async def server_reflection_info(self, rpc: Rpc) -> None:
        """Answer questions until there are no more."""
        while (question := await rpc.receive()) is not None:
            await rpc.send(self._answer(question))

    def _answer(self, question: Any) -> Any:  # noqa: ANN401 - as above
        described = self._described
        answer = self._pb.ServerReflectionResponse(
            valid_host=question.host, original_request=question
        )
        file = None
        match question.WhichOneof("message_request"):
            case "list_services":
                for name in described.services:
                    answer.list_services_response.service.add(name=name)
                return answer
            case "file_by_filename":
                file = described.files.get(question.file_by_filename)
            case "file_containing_symbol":
                file = described.symbols.get(question.file_containing_symbol)
            case "all_extension_numbers_of_type":
                name = question.all_extension_numbers_of_type
                if name in described.symbols:  # there are no extensions of any
                    answer.all_extension_numbers_response.base_type_name = name
                    return answer
            case _:
                pass
        if file is None:
            answer.error_response.error_code = Status.NOT_FOUND
            answer.error_response.error_message = "It is not found."
        else:
            answer.file_descriptor_response.file_descriptor_proto.extend(described.closure(file))
        return answer
