package client_test

import (
	"context"
	"fmt"
	"log"

	"github.com/bailiwick-mesh/bailiwick/gossip/client"
	"github.com/bailiwick-mesh/bailiwick/gossip/value"
)

// A program that keeps a copy of every service its region offers.
func ExampleClient_Watch() {
	c := client.New("") // the sidecar of this machine
	defer c.Close()
	services := map[string]client.Item{}
	for e, err := range c.Watch(context.Background(), "/node/", 0) {
		if err != nil {
			log.Fatal(err)
		}
		switch e.Kind {
		case client.Written:
			services[e.Item.Key] = e.Item
		case client.Deleted:
			delete(services, e.Item.Key)
		case client.Reset:
			clear(services) // all that is present follows
		case client.Lost:
			log.Print("what is here grows old: ", e.Err)
		case client.Synced:
			fmt.Println(len(services), "keys, as of", e.View.AsOf)
		}
	}
}

// A program that tells the region how it is.
func ExampleClient_Put() {
	c := client.New("")
	defer c.Close()
	wrote, err := c.Put(context.Background(), "/node/east-n1/x-note/mood", []byte("fine"), client.Region)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("signed as record", wrote.Seq, "of epoch", wrote.Epoch)
}

// Programs on several machines that count together: each changes its own node's part,
// and everybody reads the sum.
func ExampleClient_Change() {
	c := client.New("")
	defer c.Close()
	ctx := context.Background()
	if _, err := c.Change(ctx, "x-visits/total", value.Change{Increment: 1}, client.Region); err != nil {
		log.Fatal(err)
	}
	visits, _, err := c.Read(ctx, "x-visits/total", client.Reading{Type: value.Counter})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(visits.Count(), "visits at", len(visits.Parts), "nodes, as of", visits.Heard, "ago at the worst")
}

// A program that keeps to what is locked anywhere in the region.
func ExampleClient_Follow() {
	c := client.New("")
	defer c.Close()
	for e, err := range c.Follow(context.Background(), "x-locks/", client.Reading{Type: value.Set}) {
		switch {
		case err != nil:
			log.Fatal(err)
		case e.Kind == client.Written:
			fmt.Println(e.Shared.Name, "locks", e.Shared.Elements())
		case e.Kind == client.Lost:
			log.Print("what is here grows old: ", e.Err)
		}
	}
}
