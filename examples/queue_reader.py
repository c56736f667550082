#!/usr/bin/env python3
"""Reads a queue of procession, and puts into it, with each server's own client: an item is one MessagePack value.

    queue_reader.py URL                 prints items until there are no more for now
    queue_reader.py URL put VALUE...    puts values (JSON) instead

URL is redis://HOST/0?queue=NAME, amqp://HOST?queue=NAME or beanstalk://HOST:PORT?queue=NAME, of a Queue that a program of
procession has opened. Needs msgpack, and redis or pika. docs/engines.md says what is on each server; large items, which are in
parts, are left to procession.
"""

import json
import socket
import sys
from urllib.parse import parse_qs, urlsplit

import msgpack


def of_redis(server, name):
    import redis

    client, group = redis.Redis.from_url(server), "procession"

    def put(item):
        client.xadd(name, {"item": item})

    def take():
        for _, entries in client.xreadgroup(group, "reader", {name: ">"}, count=1) or []:
            for number, fields in entries:
                yield fields[b"item"]
                client.xack(name, group, number)
                client.xdel(name, number)

    return put, take


def of_rabbitmq(server, name):
    import pika

    channel = pika.BlockingConnection(pika.URLParameters(server)).channel()

    def put(item):
        channel.basic_publish(exchange=name, routing_key="", body=item, properties=pika.BasicProperties(delivery_mode=2))

    def take():
        method, _, item = channel.basic_get(name)
        if method:
            yield item
            token, _, _ = channel.basic_get(name + "/unfinished")
            channel.basic_ack(method.delivery_tag)
            if token:
                channel.basic_ack(token.delivery_tag)

    return put, take


def of_beanstalkd(server, name):
    place = urlsplit(server)
    stream = socket.create_connection((place.hostname, place.port or 11300)).makefile("rwb")

    def ask(*words, body=None):
        stream.write(" ".join(map(str, words)).encode() + b"\r\n" + (b"" if body is None else body + b"\r\n"))
        stream.flush()
        return stream.readline().split()

    ask("use", name)
    ask("watch", name)

    def put(item):
        ask("put", 1024, 0, 30, len(item), body=item)

    def take():
        answer = ask("reserve-with-timeout", 0)
        if answer[0] == b"RESERVED":
            yield stream.read(int(answer[2]) + 2)[:-2]
            ask("delete", answer[1].decode())

    return put, take


def main():
    server, _, settings = sys.argv[1].partition("?")
    name = "procession/" + parse_qs(settings).get("queue", ["procession"])[0]
    clients = {"redis": of_redis, "amqp": of_rabbitmq, "beanstalk": of_beanstalkd}
    put, take = clients[urlsplit(server).scheme](server, name)
    values = sys.argv[3:]
    for value in values:
        put(msgpack.packb(json.loads(value)))
    while not values and (items := list(take())):
        for item in items:
            print(json.dumps(msgpack.unpackb(item)), flush=True)


main()
