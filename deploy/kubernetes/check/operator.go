//go:build definitions

// Never built: it pins the version of the operator whose custom resource definition the tests read.
package main

import _ "github.com/open-telemetry/opentelemetry-operator/apis/v1alpha1"
