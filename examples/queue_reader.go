// Reads a queue of procession, and puts into it, with each server's own client: an item is one MessagePack value.
//
//	queue_reader URL                 prints items until there are no more for now
//	queue_reader URL put VALUE...    puts values (JSON) instead
//
// URL is redis://HOST/0?queue=NAME or amqp://HOST?queue=NAME, of a Queue that a program of procession has opened.
// docs/engines.md says what is on each server; large items, which are in parts, are left to procession.
//
// With Debian's packages golang-github-gomodule-redigo-dev, golang-github-rabbitmq-amqp091-go-dev and
// golang-github-vmihailenco-msgpack.v5-dev:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go run queue_reader.go URL
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/url"
	"os"
	"strings"

	"github.com/gomodule/redigo/redis"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/vmihailenco/msgpack/v5"
)

// What can be done with a queue: take calls done with each item before it is acknowledged, and says whether there was one.
type queue interface {
	put(item []byte) error
	take(done func(item []byte) error) (bool, error)
}

type ofRedis struct {
	client redis.Conn
	name   string
}

func (queue ofRedis) put(item []byte) error {
	_, err := queue.client.Do("XADD", queue.name, "*", "item", item)
	return err
}

func (queue ofRedis) take(done func([]byte) error) (bool, error) {
	streams, err := redis.Values(queue.client.Do("XREADGROUP", "GROUP", "procession", "reader", "COUNT", 1, "STREAMS", queue.name, ">"))
	if err == redis.ErrNil {
		return false, nil
	} else if err != nil {
		return false, err
	}
	// [[name, [[number, [field, value]]]]]
	entries, err := redis.Values(streams[0].([]interface{})[1], nil)
	if err != nil || len(entries) == 0 {
		return false, err
	}
	entry := entries[0].([]interface{})
	fields, err := redis.ByteSlices(entry[1], nil)
	if err != nil {
		return false, err
	}
	if err := done(fields[1]); err != nil {
		return false, err
	}
	if _, err := queue.client.Do("XACK", queue.name, "procession", entry[0]); err != nil {
		return false, err
	}
	_, err = queue.client.Do("XDEL", queue.name, entry[0])
	return true, err
}

type ofRabbitMQ struct {
	channel *amqp.Channel
	name    string
}

func (queue ofRabbitMQ) put(item []byte) error {
	message := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: item}
	return queue.channel.PublishWithContext(context.Background(), queue.name, "", false, false, message)
}

func (queue ofRabbitMQ) take(done func([]byte) error) (bool, error) {
	message, ok, err := queue.channel.Get(queue.name, false)
	if err != nil || !ok {
		return false, err
	}
	if err := done(message.Body); err != nil {
		return false, err
	}
	token, ok, err := queue.channel.Get(queue.name+"/unfinished", false)
	if err != nil {
		return false, err
	}
	if err := message.Ack(false); err != nil || !ok {
		return true, err
	}
	return true, token.Ack(false)
}

func open(text string) (queue, func(), error) {
	server, settings, _ := strings.Cut(text, "?")
	values, err := url.ParseQuery(settings)
	if err != nil {
		return nil, nil, err
	}
	name := "procession/" + values.Get("queue")
	if strings.HasPrefix(server, "redis:") {
		client, err := redis.DialURL(server)
		if err != nil {
			return nil, nil, err
		}
		return ofRedis{client, name}, func() { client.Close() }, nil
	}
	connection, err := amqp.Dial(server)
	if err != nil {
		return nil, nil, err
	}
	channel, err := connection.Channel()
	if err != nil {
		return nil, nil, err
	}
	return ofRabbitMQ{channel, name}, func() { connection.Close() }, nil
}

func run(words []string) error {
	if len(words) == 0 {
		return fmt.Errorf("which URL?")
	}
	queue, end, err := open(words[0])
	if err != nil {
		return err
	}
	defer end()
	if len(words) > 1 {
		for _, text := range words[2:] {
			var value interface{}
			if err := json.Unmarshal([]byte(text), &value); err != nil {
				return err
			}
			item, err := encode(value)
			if err != nil {
				return err
			}
			if err := queue.put(item); err != nil {
				return err
			}
		}
		return nil
	}
	for {
		more, err := queue.take(show)
		if err != nil || !more {
			return err
		}
	}
}

// JSON has one kind of number: whole ones go as integers.
func encode(value interface{}) ([]byte, error) {
	if list, ok := value.([]interface{}); ok {
		for at, one := range list {
			if number, ok := one.(float64); ok && number == float64(int64(number)) {
				list[at] = int64(number)
			}
		}
	}
	return msgpack.Marshal(value)
}

func show(item []byte) error {
	var value interface{}
	if err := msgpack.Unmarshal(item, &value); err != nil {
		return err
	}
	text, err := json.Marshal(value)
	if err == nil {
		fmt.Println(string(text))
	}
	return err
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}
