// Program healthcheck asks the Collector beside it whether it is ready: an image without a shell has nothing else that could.
package main

import (
	"net/http"
	"os"
	"time"
)

func main() {
	endpoint := os.Getenv("VOICESPAN_HEALTH_ENDPOINT")
	if endpoint == "" {
		endpoint = "127.0.0.1:13133"
	}
	client := http.Client{Timeout: 2 * time.Second}
	answer, err := client.Get("http://" + endpoint + "/")
	if err != nil || answer.StatusCode != http.StatusOK {
		os.Exit(1)
	}
}
