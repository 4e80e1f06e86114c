"""Errors as the Zun API tells them."""

from __future__ import annotations

import http
import json
import typing
import uuid

from oslo_log import log
from werkzeug import exceptions, wrappers

from zun_agent import errors
from zun_agent.api import versions

LOG = log.getLogger(__name__)


def response(
    status: int, code: str, title: str, detail: str, request_id: str, **more: typing.Any
) -> wrappers.Response:
    """Return the error body that the clients know.

    :param more: further members of the error
    """
    error = {
        'request_id': request_id,
        'code': code,
        'status': status,
        'title': title,
        'detail': detail,
        'links': [],
        **more,
    }
    return wrappers.Response(
        json.dumps({'errors': [error]}), status=status, content_type='application/json'
    )


def of_agent(error: errors.AgentError, request_id: str) -> wrappers.Response:
    """Return the answer to a request that ended with `error`.

    What a user can do something about is told in full. Of a failure inside, he learns a
    correlation id, under which the log has the rest.
    """
    if error.status == 500:
        return unexpected(error, error.code, request_id)
    message = str(error) or http.HTTPStatus(error.status).phrase
    if isinstance(error, errors.NotAcceptable):
        return response(
            error.status,
            error.code,
            message,
            message,
            request_id,
            max_version=str(versions.LATEST),
            min_version=str(versions.FIRST),
        )
    if isinstance(error, errors.ServiceUnavailable):
        LOG.warning('request %s was answered with 503: %s', request_id, message)
    return response(error.status, error.code, message, message, request_id)


def of_http(error: exceptions.HTTPException, request_id: str) -> wrappers.Response:
    """Return the answer for what Werkzeug found wrong with the request."""
    status = error.code or 500
    code = 'container.' + http.HTTPStatus(status).phrase.lower().replace(' ', '-')
    message = error.description or http.HTTPStatus(status).phrase
    if isinstance(error, exceptions.NotFound):
        message = 'The URL could not be found.'
    answer = response(status, code, message, message, request_id)
    if isinstance(error, exceptions.MethodNotAllowed) and error.valid_methods:
        answer.headers['Allow'] = ', '.join(sorted(error.valid_methods))
    return answer


def unexpected(error: Exception, code: str, request_id: str) -> wrappers.Response:
    """Log `error` under a new correlation id, and return the answer that names only that."""
    correlation = str(uuid.uuid4())
    LOG.error(
        'request %s failed; it was answered with 500 and correlation id %s',
        request_id,
        correlation,
        exc_info=error,
    )
    detail = (
        'Your request could not be handled because of a problem in the server. '
        f'Error Correlation id is: {correlation}'
    )
    return response(500, code, 'Internal Server Error', detail, request_id)
