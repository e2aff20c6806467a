<?php

$defaults = [
    'host' => 'local',
    'port' => 8080,
];

function lookup(array $config, string $key, $default = null)
{
    if (array_key_exists($key, $config)) {
        return $config[$key];
    }
    return $default;
}

switch (lookup($defaults, 'host')) {
    case 'local':
        echo "local\n";
        break;
    default:
        echo "remote\n";
}
