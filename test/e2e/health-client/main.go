// Calls nodes in turn by grpc-go's round_robin with health checking. For each call it writes a line: the answer in base64, or
// "failed" and why. Ends when its standard input does.
//
// Arguments: the nodes' addresses with commas, the service config, the method, the request in base64.
package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// bytesCodec sends and receives messages as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string                        { return "proto" }
func (bytesCodec) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }
func (bytesCodec) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func main() {
	addresses, config, method := os.Args[1], os.Args[2], os.Args[3]
	request, err := base64.StdEncoding.DecodeString(os.Args[4])
	if err != nil {
		panic(err)
	}
	nodes := manual.NewBuilderWithScheme("nodes")
	state := resolver.State{}
	for _, address := range strings.Split(addresses, ",") {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: address}}})
	}
	nodes.InitialState(state)
	// The path is the authority, which Node refuses if it is empty.
	conn, err := grpc.NewClient("nodes:///pitwarden.example", grpc.WithResolvers(nodes),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(config))
	if err != nil {
		panic(err)
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		var answer []byte
		if err := conn.Invoke(ctx, method, &request, &answer, grpc.ForceCodec(bytesCodec{})); err != nil {
			fmt.Printf("failed %q\n", err.Error())
		} else {
			fmt.Println(base64.StdEncoding.EncodeToString(answer))
		}
		cancel()
		time.Sleep(10 * time.Millisecond)
	}
}
