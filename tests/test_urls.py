"""Media named by URLs: how an address is sent, files of this machine, logins that nobody sees, what is no medium."""

import json
from base64 import b64encode

import pytest
from in_process import vllava
from media_files import grey, indices_of, write_image, write_video
from web_server import web_server

from videollava_cli.errors import MediaError
from videollava_cli.reader.urls import is_same_host, shown_name, without_logins

LEAK = "s3cret"
QUESTION = "What happens?"


@pytest.fixture
def picture(tmp_path):
    return write_image(tmp_path / "served.png", grey(5)).read_bytes()


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("/my clip.png", "/my%20clip.png"),
        ("/häuser/éü.png", "/h%C3%A4user/%C3%A9%C3%BC.png"),
        ("/猫 😺.png", "/%E7%8C%AB%20%F0%9F%98%BA.png"),
        ("/a%20b é%2Fc.png", "/a%20b%20%C3%A9%2Fc.png"),
        ("/100%.png", "/100%.png"),
        ('/a"<b>`{c}^.png', "/a%22%3Cb%3E%60%7Bc%7D%5E.png"),
        ("/(a)+b,c;d='e'!~.png", "/(a)+b,c;d='e'!~.png"),
        ("/x?q=ä b&u=http://y/?z#part", "/x?q=%C3%A4%20b&u=http://y/?z"),
        ("?q", "/?q"),
    ],
)
def test_address_is_sent_as_browsers_send_it(read, picture, typed, sent):
    with web_server({None: (200, {}, picture)}) as (base, asked):
        medium = read(base + typed)

    assert ([each.path for each in asked], medium.name) == ([sent], base + typed)


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("münchen.example", "xn--mnchen-3ya.example"),
        ("MÜNCHEN.example:8080", "xn--mnchen-3ya.example:8080"),
        ("straße.example", "xn--strae-oqa.example"),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
        ("b%C3%BCcher.example", "xn--bcher-kva.example"),
        ("under_score.example", "under_score.example"),
    ],
)
def test_host_is_sent_in_idna(read, monkeypatch, picture, host, sent):
    with web_server({None: (200, {}, picture)}) as (proxy, asked):
        monkeypatch.setenv("http_proxy", proxy)
        read(f"http://{host}/a.png")

    assert [each.path for each in asked] == [f"http://{sent}/a.png"]


@pytest.mark.parametrize(
    ("location", "sent"),
    [
        ("/neu é.png", "/neu%20%C3%A9.png"),
        ("sub/a b.png?x=ü", "/sub/a%20b.png?x=%C3%BC"),
        ("/a%20b%C3%A9.png", "/a%20b%C3%A9.png"),
        ("http://bücher.example/ä.png", "http://xn--bcher-kva.example/%C3%A4.png"),
    ],
)
def test_address_of_a_redirect_is_sent_as_browsers_send_it(read, monkeypatch, picture, location, sent):
    answers = {"/old": (302, {"Location": location}, b""), None: (200, {}, picture)}
    with web_server(answers) as (base, asked):
        if sent.startswith("http"):
            monkeypatch.setenv("http_proxy", base)
            monkeypatch.setenv("no_proxy", "127.0.0.1")
        read(f"{base}/old")

    assert asked[-1].path == sent


@pytest.mark.parametrize("target", ["mailto:a@b", "http://[::/x", "data:,x"])
def test_redirect_to_what_is_no_web_address_is_refused(reader, target):
    with (
        web_server({None: (302, {"Location": target}, b"")}) as (base, _),
        pytest.raises(MediaError, match=f"^cannot fetch {base}/a: it redirects to .*, which is no web address$"),
    ):
        reader.find(f"{base}/a")


def test_redirects_in_a_circle_are_given_up(reader):
    with (
        web_server({None: (302, {"Location": "/a"}, b"")}) as (base, _),
        pytest.raises(MediaError, match=f"^cannot fetch {base}/a: its redirects lead nowhere$"),
    ):
        reader.find(f"{base}/a")


FORMS = ["file://{}", "file://localhost{}", "FILE://{}", "file:{}", "file://{}#t=2", "file://{}?x"]


@pytest.mark.parametrize("form", FORMS)
def test_file_url_is_the_path_that_it_names(tmp_path, read, form):
    path = write_video(tmp_path / "a b%ü#?.mp4", 8)
    clip = read(form.format(str(path).replace("%", "%25").replace(" ", "%20").replace("#", "%23").replace("?", "%3f")))

    assert (clip.name, indices_of(clip)) == (str(path), [0, 1, 2, 3, 4, 5, 6, 7])


def test_file_url_of_bytes_that_are_no_unicode_is_read(tmp_path, read):
    path = write_video(tmp_path / "clip\udcff.mp4", 8)

    assert read(f"file://{tmp_path}/clip%FF.mp4").name == str(path)


@pytest.mark.parametrize("url", ["file://elsewhere/clip.mp4", "file://clip.mp4", "file://10.0.0.1/a", "file://"])
def test_file_url_of_another_machine_is_told(reader, url):
    with pytest.raises(MediaError) as refusal:
        reader.find(url)

    advice = "write file:///PATH, or the path alone"
    assert str(refusal.value) == f"{url!r} names no file of this machine: {advice}"


def test_file_url_works_in_every_command(tmp_path):
    url, path = f"file://{tmp_path}/my%20clip.mp4", write_video(tmp_path / "my clip.mp4", 8)
    listed = tmp_path / "list"
    listed.write_text(f"{url}\nfile://localhost{tmp_path}/sub\n")
    (tmp_path / "sub").mkdir()
    write_video(tmp_path / "sub" / "b.mp4", 8)

    asked = vllava("ask", "-m", "tiny", url, QUESTION, "--json")
    frames = vllava("frames", "-m", "tiny", url, "--json")
    batch = vllava("batch", "-m", "tiny", "--from-file", listed, "-q", QUESTION)
    chat = vllava("chat", "-m", "tiny", "--no-save", "--json", stdin=f"/video {url}\n{QUESTION}\n".encode())

    names = [json.loads(done.stdout)["media"][0]["path"] for done in (asked, chat)]
    lines = [json.loads(line) for line in batch.stdout.splitlines()]
    assert (names, json.loads(frames.stdout)["path"]) == ([str(path)] * 2, str(path))
    assert [(line["id"], line["file"] is None) for line in lines] == [
        (str(path), False),
        (f"{tmp_path}/sub/b.mp4", False),
    ]


LOGINS = {
    f"me:{LEAK}": f"me:{LEAK}",
    f"me:{LEAK}%40%2F%3A": f"me:{LEAK}@/:",
    f"me:{LEAK}@home:x": f"me:{LEAK}@home:x",
    f"m%20e:{LEAK}ü": f"m e:{LEAK}ü",
    LEAK: f"{LEAK}:",
    f":{LEAK}": f":{LEAK}",
}


@pytest.mark.parametrize("login", LOGINS)
def test_login_is_sent_and_is_no_part_of_the_name(read, picture, login):
    with web_server({None: (200, {}, picture)}) as (base, asked):
        medium = read(base.replace("//", f"//{login}@") + "/a@b.png")

    header = f"Basic {b64encode(LOGINS[login].encode()).decode()}"
    assert (asked, medium.name) == ([("/a@b.png", header)], f"{base}/a@b.png")


def test_login_is_sent_on_to_the_same_host_only(read, picture):
    with web_server({None: (200, {}, picture)}) as (other, asked_there):
        answers = {"/1": (302, {"Location": "/2"}, b""), "/2": (307, {"Location": f"{other}/3"}, b"")}
        with web_server(answers) as (base, asked):
            read(base.replace("//", f"//me:{LEAK}@") + "/1")

    assert [each.authorization is None for each in [*asked, *asked_there]] == [False, False, True]


@pytest.mark.parametrize(
    ("target", "is_sent"),
    [
        ("http://host/b", True),
        ("https://host/b", True),
        ("https://host:444/b", False),
        ("http://host:81/b", False),
        ("http://sub.host/b", False),
    ],
)
def test_host_is_the_same_with_the_same_port_or_behind_tls(target, is_sent):
    assert is_same_host("http://host/a", target) is is_sent
    assert not is_same_host("https://host/a", "http://host/a")


def test_login_that_is_wanted_behind_a_redirect_to_another_host_is_asked_for(reader):
    with (
        web_server({None: (401, {}, b"")}) as (other, _),
        web_server({None: (302, {"Location": f"{other}/a"}, b"")}) as (base, _),
        pytest.raises(MediaError, match="401 Unauthorized: it wants a login"),
    ):
        reader.find(base.replace("//", f"//me:{LEAK}@") + "/1")


def test_login_in_the_address_of_a_redirect_is_used_there(read, picture):
    with web_server({None: (200, {}, picture)}) as (other, asked):
        location = other.replace("//", "//you:there@") + "/x"
        with web_server({None: (302, {"Location": location}, b"")}) as (base, _):
            read(base.replace("//", f"//me:{LEAK}@") + "/1")

    assert asked == [("/x", f"Basic {b64encode(b'you:there').decode()}")]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (f"http://me:{LEAK}@host/a", "http://host/a"),
        (f"HTTPS://me:{LEAK}@x@host:80/a@b", "HTTPS://host:80/a@b"),
        (f"https://{LEAK}@[::1]:80/a:b@c", "https://[::1]:80/a:b@c"),
        (f"ftp://me:{LEAK}@host/a", "ftp://host/a"),
        (f"http://me:x/{LEAK}@host/a", "http://host/a"),
        (f"http://me:x#{LEAK}@host/a?b", "http://host/a?b"),
        ("http://host:80/@me/a:b@c", "http://host:80/@me/a:b@c"),
        ("http://[::1]/a@b", "http://[::1]/a@b"),
        ("/folder/http://a:b@c/d", "/folder/http://a:b@c/d"),
        ("hf://datasets/a/b@main/c", "hf://datasets/a/b@main/c"),
        ("-", "-"),
    ],
)
def test_name_that_is_shown_holds_no_login(source, shown):
    assert shown_name(source) == shown


def test_text_is_freed_of_the_logins_in_it():
    typed = f"/video https://me:{LEAK} @host/a.mp4"

    assert without_logins(typed) == "/video https://host/a.mp4"


@pytest.mark.parametrize("answer", [(401, {}, b""), (404, {}, b""), (200, {}, b"<html>"), (200, {}, b"")])
def test_error_about_an_address_holds_no_login(answer):
    with web_server({None: answer}) as (base, _):
        done = vllava("ask", "-m", "tiny", base.replace("//", f"//me:{LEAK}@") + "/a", QUESTION)

    assert (done.status, LEAK in done.stderr, f"{base}/a" in done.stderr) == (3, False, True)


def test_wrong_usage_is_told_without_the_login_in_it():
    done = vllava("frames", "a.mp4", f"http://me:{LEAK}@host/a")

    assert (done.status, LEAK in done.stderr, "http://host/a" in done.stderr) == (2, False, True)


def test_line_editor_saves_no_login(tmp_path):
    from videollava_cli.chat.input import SavedHistory

    SavedHistory(str(tmp_path / "lines")).store_string(f"/video http://me:{LEAK}@host/a")

    assert (tmp_path / "lines").read_text().endswith("+/video http://host/a\n")


def test_login_that_is_refused_is_told(reader):
    with (
        web_server({None: (401, {}, b"")}) as (base, _),
        pytest.raises(MediaError, match=r"401 Unauthorized: it does not accept this user and password$"),
    ):
        reader.find(base.replace("//", "//me:wrong@") + "/a")


def test_no_command_prints_or_saves_a_login(tmp_path, picture):
    state, results, saved = tmp_path / "state", tmp_path / "results.jsonl", tmp_path / "saved.json"
    with web_server({"/a.png": (200, {}, picture), None: (404, {}, b"")}) as (base, _):
        url = base.replace("//", f"//me:{LEAK}@") + "/a.png"
        batch = ("batch", "-m", "tiny", url, f"{url}x", "-q", QUESTION, "-o", results, "--verbose")
        typed = f"/image {url}\n/media\n{QUESTION}\n/save {saved}\n/undo\n/undo\n".encode()
        runs = [
            vllava("ask", "-m", "tiny", url, QUESTION, "--json", "--verbose"),
            vllava("frames", "-m", "tiny", url),
            vllava("frames", "-m", "tiny", url, "--json", "--verbose"),
            vllava(*batch, "--dry-run"),
            vllava(*batch),
            vllava("chat", "-m", "tiny", url, "--json", "--verbose", stdin=typed, XDG_STATE_HOME=str(state)),
        ]

    written = [path.read_text() for path in (results, saved, *state.rglob("*")) if path.is_file()]
    assert [done.status for done in runs] == [0, 0, 0, 0, 4, 0]
    assert f"{base}/a.png" in saved.read_text()
    assert [text for text in [*written, *(done.stdout + done.stderr for done in runs)] if LEAK in text] == []


def test_batch_goes_on_under_another_login(tmp_path, picture):
    results = tmp_path / "results.jsonl"
    with web_server({None: (200, {}, picture)}) as (base, asked):
        for login in (f"me:{LEAK}@", "me:changed@", ""):
            url = base.replace("//", f"//{login}") + "/a.png"
            done = vllava("batch", "-m", "tiny", url, "-q", QUESTION, "-o", results)

    (line,) = map(json.loads, results.read_text().splitlines())
    assert (len(asked), line["id"], line["media"][0]["path"]) == (1, f"{base}/a.png", f"{base}/a.png")
    assert "1 there before" in done.stderr


def test_questions_about_an_address_keep_its_login_out_of_the_lines(tmp_path, picture):
    with web_server({None: (200, {}, picture)}) as (base, asked):
        url = base.replace("//", f"//me:{LEAK}@") + "/a.png"
        items = [{"path": url, "question": QUESTION}, {"id": url, "path": url, "question": "Why?"}]
        listed = "".join(json.dumps(item) + "\n" for item in items)
        done = vllava("batch", "-m", "tiny", "--questions", "-", stdin=listed.encode())

    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [f"{base}/a.png"] * 2
    assert (asked[0].authorization is None, LEAK in done.stderr + done.stdout) == (False, False)


def test_conversation_that_is_taken_up_says_that_the_login_is_wanted_again(tmp_path, picture):
    answers = {None: (200, {}, picture)}
    with web_server(answers) as (base, _):
        url = base.replace("//", f"//me:{LEAK}@") + "/a.png"
        vllava("chat", "-m", "tiny", url, stdin=f"{QUESTION}\n".encode(), XDG_STATE_HOME=str(tmp_path))
        answers[None] = (401, {}, b"")
        done = vllava("chat", "-m", "tiny", "-c", XDG_STATE_HOME=str(tmp_path))

    assert f"cannot fetch {base}/a.png: the server says 401 Unauthorized: it wants a login" in done.stderr
    assert "vllava saves no passwords" in done.stderr
