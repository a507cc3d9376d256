"""Bodies of the API, read more strictly than by FastAPI: no NaN, and no nesting that a reader cannot follow."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from leyden.errors import BadInput, LeydenError
from leyden.gateway.json_text import check_depth

__all__ = ["StrictRoute"]


class _StrictRequest(Request):
    async def json(self) -> Any:
        """The body as JSON."""
        raw = await self.body()
        try:
            value = from_json(raw, allow_inf_nan=False)
        except ValueError as error:
            raise BadInput(f"the body is no JSON: {error}") from error
        check_depth(value)
        return value


class StrictRoute(APIRoute):
    """A route whose body is read as said above."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute.get_route_handler`."""
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            try:
                return await handle(_StrictRequest(request.scope, request.receive))
            except HTTPException as error:  # FastAPI's, around whatever was raised while the body was read
                if isinstance(error.__cause__, LeydenError):
                    raise error.__cause__ from None
                raise

        return strictly
