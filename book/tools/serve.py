"""Shows the website that `make book` built: a local web server on a free port, and a browser where there is one."""

import functools
import http.server
import sys
import webbrowser

import click

from .layout import Book


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a log line for each."""

    def log_message(self, format: str, *args: object) -> None:
        return


@click.command()
@click.option("--where", is_flag=True, help="Only say where the website is.")
@click.option("--port", default=0, help="0 takes any free port.")
def main(where: bool, port: int) -> None:
    site = Book().build / "site"
    if not (site / "index.html").exists():
        sys.exit("There is no website yet: run `make book`.")
    if where:
        click.echo(f"The book is built: {site / 'index.html'}\nRun `make serve` to open it.")
        return
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Quiet, directory=site)) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        click.echo(f"The book is at {address} until you press Ctrl-C.")
        webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo()


if __name__ == "__main__":
    main()
